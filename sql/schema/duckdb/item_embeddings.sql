-- grain: one row per item, for one model
-- reads: nothing
-- params: none
CREATE TABLE IF NOT EXISTS item_embeddings (
    item_index BIGINT NOT NULL,
    text_hash VARCHAR NOT NULL,
    embedding FLOAT[] NOT NULL,
    model VARCHAR
);
