-- grain: one row
-- reads: recommendations, runs
-- params: date
-- How much of the lists is other than on the published date before? Overlap is the share of a
-- user's items that were in the list before, over the users that have a list on both dates.
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

users_before AS (
    SELECT
        user_id,
        count(*) AS num_items
    FROM before
    GROUP BY user_id
),

compared AS (
    SELECT
        today.user_id,
        max(CASE WHEN users_before.user_id IS null THEN 0 ELSE 1 END) AS was_there,
        avg(cast(before.item_index IS NOT null AS INT)) AS overlap,
        max(CASE WHEN today.rank = 1 AND before.rank = 1 THEN 1 ELSE 0 END) AS same_first,
        CASE
            WHEN count(*) <> max(users_before.num_items) THEN 0
            ELSE min(CASE WHEN today.rank = before.rank THEN 1 ELSE 0 END)
        END AS same_list
    FROM today
    LEFT JOIN users_before ON today.user_id = users_before.user_id
    LEFT JOIN before
        ON
            today.user_id = before.user_id
            AND today.item_index = before.item_index
    GROUP BY today.user_id
)

SELECT
    (SELECT day_before.date FROM day_before) AS date_before,
    count(*) AS num_users,
    cast(coalesce(sum(1 - was_there), 0) AS BIGINT) AS num_new_users,
    cast(avg(CASE WHEN was_there = 1 THEN overlap END) AS DOUBLE) AS mean_overlap,
    cast(avg(CASE WHEN was_there = 1 THEN same_first END) AS DOUBLE) AS same_first_share,
    cast(avg(CASE WHEN was_there = 1 THEN same_list END) AS DOUBLE) AS same_list_share
FROM compared;
