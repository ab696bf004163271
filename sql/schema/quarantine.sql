-- grain: one row per rejected input row
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS quarantine (
    source STRING NOT NULL,
    line STRING,
    reason STRING NOT NULL,
    run_id STRING NOT NULL,
    job STRING,
    date DATE
)
USING PARQUET
PARTITIONED BY (job, date);
