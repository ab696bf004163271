-- grain: one row
-- reads: recommendations, runs, catalog
-- params: date
-- How much of the run's catalog is shown to anybody, and how evenly? Gini is 0 where every item
-- is on equally many lists, and nears 1 the more of the places go to few items.
WITH items AS (
    SELECT catalog.item_index
    FROM catalog
    INNER JOIN runs ON catalog.version = cast(runs.catalog_version AS DATE)
    WHERE runs.date = cast(:date AS DATE)
),

shown AS (
    SELECT
        recommendations.item_index,
        count(*) AS num_lists
    FROM recommendations
    INNER JOIN runs
        ON
            recommendations.date = runs.date
            AND recommendations.run_id = runs.run_id
    WHERE recommendations.date = cast(:date AS DATE)
    GROUP BY recommendations.item_index
),

counts AS (
    SELECT
        items.item_index,
        cast(coalesce(shown.num_lists, 0) AS DOUBLE) AS num_lists
    FROM items
    LEFT JOIN shown ON items.item_index = shown.item_index
),

places AS (
    SELECT
        num_lists,
        cast(row_number() OVER (ORDER BY num_lists ASC, item_index ASC) AS DOUBLE) AS place
    FROM counts
),

sums AS (
    SELECT
        count(*) AS num_items,
        coalesce(sum(CASE WHEN num_lists > 0 THEN 1 ELSE 0 END), 0) AS num_shown,
        sum(num_lists) AS num_lists,
        sum(place * num_lists) AS weighted
    FROM places
)

SELECT
    num_items,
    cast(num_shown AS BIGINT) AS num_shown,
    cast(num_shown AS DOUBLE) / nullif(num_items, 0) AS coverage,
    2 * weighted / nullif(num_items * num_lists, 0)
    - (num_items + 1) / nullif(cast(num_items AS DOUBLE), 0) AS gini
FROM sums;
