-- grain: one row per user of the date's lists who bought something later
-- reads: recommendations, runs, sequences
-- params: date, days=7
-- Which rank did the user's next purchase, within some days after the date, have on the list? Null
-- where it was not on it. A purchase counts by its row in sequences; of several at one time, the
-- one with the least sequence_id.
WITH lists AS (
    SELECT
        recommendations.user_id,
        recommendations.rank,
        recommendations.item_index
    FROM recommendations
    INNER JOIN runs
        ON
            recommendations.date = runs.date
            AND recommendations.run_id = runs.run_id
    WHERE recommendations.date = cast(:date AS DATE)
),

users AS (
    SELECT DISTINCT user_id FROM lists
),

purchases AS (
    SELECT
        sequences.user_id,
        sequences.target_item_index,
        row_number() OVER (
            PARTITION BY sequences.user_id
            ORDER BY sequences.target_time ASC, sequences.sequence_id ASC
        ) AS place
    FROM sequences
    INNER JOIN users ON sequences.user_id = users.user_id
    WHERE
        cast(sequences.target_time AS DATE) > cast(:date AS DATE)
        AND cast(sequences.target_time AS DATE) <= cast(:date AS DATE) + cast(:days AS INT)
)

SELECT
    purchases.user_id,
    purchases.target_item_index AS item_index,
    lists.rank
FROM purchases
LEFT JOIN lists
    ON
        purchases.user_id = lists.user_id
        AND purchases.target_item_index = lists.item_index
WHERE purchases.place = 1
ORDER BY purchases.user_id ASC;
