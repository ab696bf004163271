-- An item keeps its index in every version of the catalog, and an index its item.
-- grain: one row per item with more than one index, or index with more than one item
-- reads: catalog
-- params: none
WITH items AS (
    SELECT
        item_id AS first_item_id,
        item_id AS other_item_id,
        min(item_index) AS first_index,
        max(item_index) AS other_index
    FROM catalog
    GROUP BY item_id
),

indices AS (
    SELECT
        min(item_id) AS first_item_id,
        max(item_id) AS other_item_id,
        item_index AS first_index,
        item_index AS other_index
    FROM catalog
    GROUP BY item_index
)

SELECT
    first_item_id,
    other_item_id,
    first_index,
    other_index
FROM items
WHERE first_index <> other_index
UNION ALL
SELECT
    first_item_id,
    other_item_id,
    first_index,
    other_index
FROM indices
WHERE first_item_id <> other_item_id
