-- grain: one row per item of a catalog version
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS catalog (
    item_index BIGINT NOT NULL,
    item_id VARCHAR NOT NULL,
    title VARCHAR,
    description VARCHAR,
    category VARCHAR,
    store VARCHAR,
    price DOUBLE,
    first_seen TIMESTAMPTZ,
    text_hash VARCHAR NOT NULL,
    version DATE
);
