-- Every item of a history stands in the catalog.
-- Where the item indices have no gap (item_index_dense), the lowest and the highest stand for all.
-- grain: one row per date and user whose history has an item that no catalog version has
-- reads: histories, catalog
-- params: none
WITH known AS (
    SELECT
        coalesce(min(item_index), 0) AS first_index,
        coalesce(max(item_index), -1) AS last_index
    FROM catalog
)

SELECT
    histories.date,
    histories.user_id,
    array_min(histories.history_item_index) AS lowest_index,
    array_max(histories.history_item_index) AS highest_index
FROM histories
CROSS JOIN known
WHERE
    array_min(histories.history_item_index) < known.first_index
    OR array_max(histories.history_item_index) > known.last_index
