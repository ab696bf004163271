-- Every item of a history stands in the catalog.
-- grain: one row per date and item index that no catalog version has
-- reads: histories, catalog
-- params: none
WITH used AS (
    SELECT DISTINCT
        histories.date,
        event.item_index
    FROM histories,
        LATERAL unnest(histories.history_item_index) AS event (item_index)
)

SELECT
    used.date,
    used.item_index
FROM used
LEFT JOIN catalog ON used.item_index = catalog.item_index
WHERE catalog.item_index IS null
