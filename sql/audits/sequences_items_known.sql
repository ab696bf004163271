-- Every item of a sequence stands in the catalog.
-- grain: one row per item index of a sequence that no catalog version has
-- reads: sequences, catalog
-- params: none
WITH used AS (
    SELECT target_item_index AS item_index FROM sequences
    UNION
    SELECT event.item_index
    FROM sequences,
        LATERAL unnest(sequences.history_item_index) AS event (item_index)
)

SELECT used.item_index
FROM used
LEFT JOIN catalog ON used.item_index = catalog.item_index
WHERE catalog.item_index IS null
