-- grain: one row per (run, split, metric)
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS metrics (
    run_id VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    split VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    value DOUBLE NOT NULL,
    ci_low DOUBLE,
    ci_high DOUBLE,
    users BIGINT NOT NULL
);
