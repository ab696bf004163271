-- grain: one row per (user, rank) of a published date
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS recommendations (
    user_id VARCHAR NOT NULL,
    rank INTEGER NOT NULL,
    item_id VARCHAR NOT NULL,
    item_index BIGINT NOT NULL,
    score FLOAT NOT NULL,
    date DATE,
    run_id VARCHAR
);
