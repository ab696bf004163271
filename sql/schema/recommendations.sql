-- grain: one row per (user, rank) of a published date
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS recommendations (
    user_id STRING NOT NULL,
    rank INT NOT NULL,
    item_id STRING NOT NULL,
    item_index BIGINT NOT NULL,
    score FLOAT NOT NULL,
    date DATE,
    run_id STRING
)
USING PARQUET
PARTITIONED BY (date, run_id);
