-- A sequence has an id of its own and at least one event before its target; its lists agree.
-- grain: one row per sequence id that breaks this, and what it breaks
-- reads: sequences
-- params: none
SELECT
    sequence_id,
    'more than one row' AS problem
FROM sequences
GROUP BY sequence_id
HAVING count(*) > 1
UNION ALL
SELECT
    sequence_id,
    'lists of different lengths, or none' AS problem
FROM sequences
WHERE
    cardinality(history_item_index) = 0
    OR cardinality(history_item_index) <> cardinality(history_time)
    OR cardinality(history_item_index) <> cardinality(history_rating)
