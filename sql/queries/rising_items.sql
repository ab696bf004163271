-- grain: one row per item that is on more lists than on the published date before
-- reads: recommendations, runs, catalog
-- params: date, top=20
-- Which items rise? Those with the largest gain in users; ties by item_index. The shares are of
-- the users with a list, for their number may change too. No rows where no date was before.
WITH published AS (
    SELECT
        recommendations.date,
        recommendations.user_id,
        recommendations.item_id,
        recommendations.item_index,
        runs.catalog_version
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
        item_index,
        item_id,
        catalog_version,
        count(*) AS num_users
    FROM published
    WHERE date = cast(:date AS DATE)
    GROUP BY item_index, item_id, catalog_version
),

before AS (
    SELECT
        published.item_index,
        count(*) AS num_users
    FROM published
    INNER JOIN day_before ON published.date = day_before.date
    GROUP BY published.item_index
),

all_users AS (
    SELECT
        count(DISTINCT CASE WHEN published.date = cast(:date AS DATE) THEN published.user_id END)
            AS num_today,
        count(DISTINCT CASE WHEN published.date = day_before.date THEN published.user_id END)
            AS num_before
    FROM published
    CROSS JOIN day_before
    WHERE published.date = cast(:date AS DATE) OR published.date = day_before.date
),

gains AS (
    SELECT
        today.item_index,
        today.item_id,
        today.catalog_version,
        today.num_users,
        coalesce(before.num_users, 0) AS num_users_before,
        today.num_users - coalesce(before.num_users, 0) AS gain
    FROM today
    INNER JOIN day_before ON day_before.date IS NOT null
    LEFT JOIN before ON today.item_index = before.item_index
),

places AS (
    SELECT
        gains.*,
        row_number() OVER (ORDER BY gains.gain DESC, gains.item_index ASC) AS place
    FROM gains
    WHERE gains.gain > 0
)

SELECT
    places.item_index,
    places.item_id,
    catalog.title,
    places.num_users,
    places.num_users_before,
    places.gain,
    cast(places.num_users AS DOUBLE) / nullif(all_users.num_today, 0) AS share,
    cast(places.num_users_before AS DOUBLE) / nullif(all_users.num_before, 0) AS share_before
FROM places
CROSS JOIN all_users
LEFT JOIN catalog
    ON
        places.item_index = catalog.item_index
        AND cast(places.catalog_version AS DATE) = catalog.version
WHERE places.place <= cast(:top AS INT)
ORDER BY places.place;
