-- grain: one row per (user, target)
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS sequences (
    sequence_id BIGINT NOT NULL,
    user_id VARCHAR NOT NULL,
    history_item_index BIGINT[],
    history_rating FLOAT[],
    history_time TIMESTAMPTZ[],
    target_item_index BIGINT NOT NULL,
    target_rating FLOAT,
    target_time TIMESTAMPTZ NOT NULL,
    split VARCHAR
);
