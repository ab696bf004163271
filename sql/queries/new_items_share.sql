-- grain: one row
-- reads: recommendations, runs, catalog
-- params: date, days=30
-- Do new items get shown? New is an item first seen within so many days up to the date; one with
-- no such time is not new. Beside their share of the lists stands that of the run's catalog.
WITH items AS (
    SELECT
        catalog.item_index,
        CASE
            WHEN
                cast(catalog.first_seen AS DATE) > cast(:date AS DATE) - cast(:days AS INT)
                AND cast(catalog.first_seen AS DATE) <= cast(:date AS DATE)
                THEN 1
            ELSE 0
        END AS is_new
    FROM catalog
    INNER JOIN runs ON catalog.version = cast(runs.catalog_version AS DATE)
    WHERE runs.date = cast(:date AS DATE)
),

shown AS (
    SELECT
        recommendations.user_id,
        items.is_new
    FROM recommendations
    INNER JOIN runs
        ON
            recommendations.date = runs.date
            AND recommendations.run_id = runs.run_id
    INNER JOIN items ON recommendations.item_index = items.item_index
    WHERE recommendations.date = cast(:date AS DATE)
),

of_catalog AS (
    SELECT
        count(*) AS num_items,
        coalesce(sum(is_new), 0) AS num_new_items,
        avg(is_new) AS catalog_share
    FROM items
),

of_lists AS (
    SELECT
        count(*) AS num_shown,
        coalesce(sum(is_new), 0) AS num_new_shown,
        avg(is_new) AS list_share,
        count(DISTINCT user_id) AS num_users,
        count(DISTINCT CASE WHEN is_new = 1 THEN user_id END) AS num_users_with_new
    FROM shown
)

SELECT
    of_catalog.num_items,
    cast(of_catalog.num_new_items AS BIGINT) AS num_new_items,
    cast(of_catalog.catalog_share AS DOUBLE) AS catalog_share,
    of_lists.num_shown,
    cast(of_lists.num_new_shown AS BIGINT) AS num_new_shown,
    cast(of_lists.list_share AS DOUBLE) AS list_share,
    cast(of_lists.num_users_with_new AS DOUBLE) / nullif(of_lists.num_users, 0) AS user_share
FROM of_catalog
CROSS JOIN of_lists;
