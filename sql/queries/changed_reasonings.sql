-- grain: one row per user whose list is not that of the published date before
-- reads: recommendations, reasoning, runs
-- params: date
-- What was the reasoning before and after, where the list changed? Of the users with a list on
-- both dates; num_changed counts the ranks with another item, or with one on one date alone.
WITH published AS (
    SELECT
        recommendations.date,
        recommendations.user_id,
        recommendations.rank,
        recommendations.item_index
    FROM recommendations
    INNER JOIN runs
        ON
            recommendations.date = runs.date
            AND recommendations.run_id = runs.run_id
),

reasons AS (
    SELECT
        reasoning.date,
        reasoning.user_id,
        reasoning.reasoning
    FROM reasoning
    INNER JOIN runs
        ON
            reasoning.date = runs.date
            AND reasoning.run_id = runs.run_id
),

day_before AS (
    SELECT max(date) AS date
    FROM runs
    WHERE date < cast(:date AS DATE)
),

today AS (
    SELECT
        user_id,
        rank,
        item_index
    FROM published
    WHERE date = cast(:date AS DATE)
),

before AS (
    SELECT
        published.user_id,
        published.rank,
        published.item_index
    FROM published
    INNER JOIN day_before ON published.date = day_before.date
),

ranks AS (
    SELECT
        coalesce(today.user_id, before.user_id) AS user_id,
        CASE WHEN today.user_id IS null THEN 0 ELSE 1 END AS is_today,
        CASE WHEN before.user_id IS null THEN 0 ELSE 1 END AS is_before,
        CASE WHEN today.item_index = before.item_index THEN 0 ELSE 1 END AS is_changed
    FROM today
    FULL OUTER JOIN before
        ON
            today.user_id = before.user_id
            AND today.rank = before.rank
),

changed AS (
    SELECT
        user_id,
        sum(is_changed) AS num_changed
    FROM ranks
    GROUP BY user_id
    HAVING max(is_today) = 1 AND max(is_before) = 1 AND sum(is_changed) > 0
)

SELECT
    changed.user_id,
    cast(changed.num_changed AS BIGINT) AS num_changed,
    reasons_before.reasoning AS reasoning_before,
    reasons_today.reasoning AS reasoning_today
FROM changed
CROSS JOIN day_before
LEFT JOIN reasons AS reasons_before
    ON
        changed.user_id = reasons_before.user_id
        AND day_before.date = reasons_before.date
LEFT JOIN reasons AS reasons_today
    ON
        changed.user_id = reasons_today.user_id
        AND reasons_today.date = cast(:date AS DATE)
ORDER BY changed.user_id;
