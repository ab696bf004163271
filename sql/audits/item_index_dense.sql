-- In each version of the catalog the item indices run from 0 without a gap, each once, and every
-- item has one index.
-- grain: one row per catalog version that breaks this
-- reads: catalog
-- params: none
SELECT
    version,
    count(*) AS num_rows,
    count(DISTINCT item_index) AS num_indices,
    count(DISTINCT item_id) AS num_items,
    min(item_index) AS first_index,
    max(item_index) AS last_index
FROM catalog
GROUP BY version
HAVING
    count(*) <> count(DISTINCT item_index)
    OR count(*) <> count(DISTINCT item_id)
    OR min(item_index) <> 0
    OR max(item_index) <> count(*) - 1
