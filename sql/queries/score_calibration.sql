-- grain: one row per bin of the scores, from the highest (1) down; rows of one score share a bin
-- reads: recommendations, runs, sequences
-- params: date, days=7, bins=10
-- Does a higher score mean a purchase? The share of recommendations that their user bought within
-- some days after the date. A purchase counts by its row in sequences, and once.
WITH lists AS (
    SELECT
        recommendations.user_id,
        recommendations.item_index,
        cast(recommendations.score AS DOUBLE) AS score
    FROM recommendations
    INNER JOIN runs
        ON
            recommendations.date = runs.date
            AND recommendations.run_id = runs.run_id
    WHERE recommendations.date = cast(:date AS DATE)
),

purchases AS (
    SELECT DISTINCT
        user_id,
        target_item_index AS item_index
    FROM sequences
    WHERE
        cast(target_time AS DATE) > cast(:date AS DATE)
        AND cast(target_time AS DATE) <= cast(:date AS DATE) + cast(:days AS INT)
),

ranked AS (
    SELECT
        lists.score,
        CASE WHEN purchases.user_id IS null THEN 0 ELSE 1 END AS is_bought,
        rank() OVER (ORDER BY lists.score DESC) - 1 AS num_above,
        count(*) OVER () AS num_rows
    FROM lists
    LEFT JOIN purchases
        ON
            lists.user_id = purchases.user_id
            AND lists.item_index = purchases.item_index
),

binned AS (
    SELECT
        score,
        is_bought,
        cast(floor(num_above * cast(:bins AS INT) / num_rows) AS INT) + 1 AS bin
    FROM ranked
)

SELECT
    bin,
    count(*) AS num_rows,
    min(score) AS lowest_score,
    max(score) AS highest_score,
    cast(sum(is_bought) AS BIGINT) AS num_bought,
    cast(avg(is_bought) AS DOUBLE) AS bought_share
FROM binned
GROUP BY bin
ORDER BY bin;
