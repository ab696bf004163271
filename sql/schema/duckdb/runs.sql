-- grain: one row per published run; it is the pointer that says which run of a date is visible
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS runs (
    run_id VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    catalog_version VARCHAR NOT NULL,
    num_shards INTEGER NOT NULL,
    num_users BIGINT NOT NULL,
    num_errors BIGINT NOT NULL,
    num_recommendations BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    wall_seconds DOUBLE NOT NULL,
    device_seconds DOUBLE NOT NULL,
    price_per_hour DOUBLE,
    cost_per_1000_users DOUBLE,
    published_at TIMESTAMPTZ NOT NULL,
    num_carried BIGINT,
    users_per_second DOUBLE,
    catalog_fingerprint VARCHAR,
    settings VARCHAR,
    date DATE
);
