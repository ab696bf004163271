-- grain: one row per (run, split, metric)
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS metrics (
    run_id STRING NOT NULL,
    model STRING NOT NULL,
    split STRING NOT NULL,
    metric STRING NOT NULL,
    value DOUBLE NOT NULL,
    ci_low DOUBLE,
    ci_high DOUBLE,
    users BIGINT NOT NULL
)
USING PARQUET;
