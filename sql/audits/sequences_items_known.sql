-- Every item of a sequence stands in the catalog.
-- Where the item indices have no gap (item_index_dense), the lowest and the highest stand for all.
-- grain: one row per sequence with an item that no catalog version has
-- reads: sequences, catalog
-- params: none
WITH known AS (
    SELECT
        coalesce(min(item_index), 0) AS first_index,
        coalesce(max(item_index), -1) AS last_index
    FROM catalog
)

SELECT
    sequences.sequence_id,
    sequences.target_item_index,
    array_min(sequences.history_item_index) AS lowest_index,
    array_max(sequences.history_item_index) AS highest_index
FROM sequences
CROSS JOIN known
WHERE
    array_min(sequences.history_item_index) < known.first_index
    OR array_max(sequences.history_item_index) > known.last_index
    OR sequences.target_item_index < known.first_index
    OR sequences.target_item_index > known.last_index
