-- grain: one row per user with an event before the end of the date
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS histories (
    user_id STRING NOT NULL,
    history_item_index ARRAY<BIGINT>,
    history_rating ARRAY<FLOAT>,
    history_time ARRAY<TIMESTAMP>,
    history_hash STRING NOT NULL,
    date DATE
)
USING PARQUET
PARTITIONED BY (date);
