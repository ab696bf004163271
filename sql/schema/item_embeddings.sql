-- grain: one row per item, for one model
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS item_embeddings (
    item_index BIGINT NOT NULL,
    text_hash STRING NOT NULL,
    embedding ARRAY<FLOAT> NOT NULL,
    model STRING
)
USING PARQUET
PARTITIONED BY (model);
