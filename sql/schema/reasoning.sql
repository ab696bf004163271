-- grain: one row per user of a published date
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS reasoning (
    user_id STRING NOT NULL,
    reasoning STRING,
    finish_reason STRING,
    prompt_tokens INT,
    reasoning_tokens INT,
    history_hash STRING NOT NULL,
    status STRING NOT NULL,
    error STRING,
    date DATE,
    run_id STRING
)
USING PARQUET
PARTITIONED BY (date, run_id);
