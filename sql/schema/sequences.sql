-- grain: one row per (user, target)
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS sequences (
    sequence_id BIGINT NOT NULL,
    user_id STRING NOT NULL,
    history_item_index ARRAY<BIGINT>,
    history_rating ARRAY<FLOAT>,
    history_time ARRAY<TIMESTAMP>,
    target_item_index BIGINT NOT NULL,
    target_rating FLOAT,
    target_time TIMESTAMP NOT NULL,
    split STRING
)
USING PARQUET
PARTITIONED BY (split);
