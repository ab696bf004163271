-- grain: one row per rank of the user's published list
-- reads: v_recommendations
-- params: date, user_id
-- What does this user get, and why?
SELECT
    rank,
    item_id,
    title,
    store,
    price,
    score,
    reasoning
FROM v_recommendations
WHERE
    date = cast(:date AS DATE)
    AND user_id = :user_id
ORDER BY rank;
