-- grain: one row per item of a catalog version
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS catalog (
    item_index BIGINT NOT NULL,
    item_id STRING NOT NULL,
    title STRING,
    description STRING,
    category STRING,
    store STRING,
    price DOUBLE,
    first_seen TIMESTAMP,
    text_hash STRING NOT NULL,
    version DATE
)
USING PARQUET
PARTITIONED BY (version);
