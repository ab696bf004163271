-- An item keeps its index in every version of the catalog.
-- grain: one row per item with more than one index
-- reads: catalog
-- params: none
SELECT
    item_id,
    min(item_index) AS first_index,
    max(item_index) AS other_index
FROM catalog
GROUP BY item_id
HAVING min(item_index) <> max(item_index)
