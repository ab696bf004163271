-- grain: one row
-- reads: recommendations, runs, sequences
-- params: date, k=10, days=7
-- Of the users who bought something within some days after the date: how many found their next
-- purchase among the first k of their list, and how far up (NDCG: 1 / log2(rank + 1))? A purchase
-- counts by its row in sequences; of several at one time, the one with the least sequence_id. Where
-- lists are shorter than k, what is not on them is a miss.
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
),

outcomes AS (
    SELECT
        purchases.user_id,
        CASE WHEN lists.rank <= cast(:k AS INT) THEN 1 ELSE 0 END AS is_hit,
        CASE WHEN lists.rank <= cast(:k AS INT) THEN ln(2) / ln(lists.rank + 1) ELSE 0 END AS gain
    FROM purchases
    LEFT JOIN lists
        ON
            purchases.user_id = lists.user_id
            AND purchases.target_item_index = lists.item_index
    WHERE purchases.place = 1
)

SELECT
    count(*) AS num_users,
    cast(coalesce(sum(is_hit), 0) AS BIGINT) AS num_hits,
    cast(avg(is_hit) AS DOUBLE) AS hit_rate,
    cast(avg(gain) AS DOUBLE) AS ndcg
FROM outcomes;
