-- A sequence has an id of its own.
-- grain: one row per sequence id that more than one sequence has
-- reads: sequences
-- params: none
SELECT
    sequence_id,
    count(*) AS num_rows
FROM sequences
GROUP BY sequence_id
HAVING count(*) > 1
