-- grain: one row per user with an event before the end of the date
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS histories (
    user_id VARCHAR NOT NULL,
    history_item_index BIGINT[],
    history_rating FLOAT[],
    history_time TIMESTAMPTZ[],
    history_hash VARCHAR NOT NULL,
    date DATE
);
