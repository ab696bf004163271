-- grain: one row per user of a published date
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS reasoning (
    user_id VARCHAR NOT NULL,
    reasoning VARCHAR,
    finish_reason VARCHAR,
    prompt_tokens INTEGER,
    reasoning_tokens INTEGER,
    history_hash VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    error VARCHAR,
    date DATE,
    run_id VARCHAR
);
