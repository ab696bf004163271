-- The splits follow each other in time and share no timestamp.
-- grain: one row per pair of splits that overlap in time
-- reads: sequences
-- params: none
WITH bounds AS (
    SELECT
        split,
        min(target_time) AS first_time,
        max(target_time) AS last_time,
        CASE split WHEN 'train' THEN 1 WHEN 'valid' THEN 2 ELSE 3 END AS place
    FROM sequences
    GROUP BY split
)

SELECT
    earlier.split AS earlier_split,
    later.split AS later_split,
    earlier.last_time,
    later.first_time
FROM bounds AS earlier
INNER JOIN bounds AS later ON earlier.place < later.place
WHERE earlier.last_time >= later.first_time
