-- A sequence has an id of its own and at least one event before its target; its lists agree.
-- grain: one row per sequence id that breaks this
-- reads: sequences
-- params: none
SELECT
    sequence_id,
    count(*) AS num_rows,
    min(cardinality(history_item_index)) AS shortest_history
FROM sequences
GROUP BY sequence_id
HAVING
    count(*) > 1
    OR min(cardinality(history_item_index)) = 0
    OR count_if(cardinality(history_item_index) <> cardinality(history_time)) > 0
    OR count_if(cardinality(history_item_index) <> cardinality(history_rating)) > 0
