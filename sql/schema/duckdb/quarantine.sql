-- grain: one row per rejected input row
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS quarantine (
    source VARCHAR NOT NULL,
    line VARCHAR,
    reason VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    job VARCHAR,
    date DATE
);
