-- grain: one row per recommended item whose whole title stands in its user's reasoning
-- reads: v_recommendations
-- params: date
-- Which reasonings name what is then recommended? Letter case does not count. A title of one short
-- word may be found within a longer one: Pen in pencil.
SELECT
    user_id,
    rank,
    item_id,
    title,
    reasoning
FROM v_recommendations
WHERE
    date = cast(:date AS DATE)
    AND trim(title) <> ''
    AND position(lower(title) IN lower(reasoning)) > 0
ORDER BY user_id, rank;
