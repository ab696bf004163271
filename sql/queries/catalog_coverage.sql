-- grain: one row per category of the run's catalog, after one for all of them
-- reads: v_recommendations, catalog, runs
-- params: date
-- How much of the catalog does anybody get to see?
WITH items AS (
    SELECT
        catalog.item_index,
        coalesce(nullif(catalog.category, ''), '(none)') AS category
    FROM catalog
    INNER JOIN runs ON catalog.version = cast(runs.catalog_version AS DATE)
    WHERE runs.date = cast(:date AS DATE)
),

shown_items AS (
    SELECT DISTINCT item_index
    FROM v_recommendations
    WHERE date = cast(:date AS DATE)
),

rows_of_both AS (
    SELECT
        items.category,
        CASE WHEN shown_items.item_index IS null THEN 0 ELSE 1 END AS is_shown
    FROM items
    LEFT JOIN shown_items ON items.item_index = shown_items.item_index
),

per_category AS (
    SELECT
        category,
        count(*) AS num_items,
        sum(is_shown) AS num_shown,
        1 AS place
    FROM rows_of_both
    GROUP BY category
),

overall AS (
    SELECT
        '(all)' AS category,
        count(*) AS num_items,
        coalesce(sum(is_shown), 0) AS num_shown,
        0 AS place
    FROM rows_of_both
)

SELECT
    category,
    num_items,
    cast(num_shown AS BIGINT) AS num_shown,
    cast(num_shown AS DOUBLE) / nullif(num_items, 0) AS coverage
FROM (
    SELECT * FROM overall
    UNION ALL
    SELECT * FROM per_category
) AS both_levels
ORDER BY place, category;
