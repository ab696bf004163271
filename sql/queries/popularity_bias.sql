-- grain: one row per tenth of the items bought or shown, from the most bought (1) to the least (10)
-- reads: v_recommendations, v_user_history
-- params: date
-- Do the lists go to what sells anyway? Shares of purchases (in the histories of the date) and of
-- recommendations, by how often an item was bought; lift above 1 means: shown more than bought.
WITH purchases AS (
    SELECT
        item_index,
        count(*) AS num_purchases
    FROM v_user_history
    WHERE date = cast(:date AS DATE)
    GROUP BY item_index
),

shown AS (
    SELECT
        item_index,
        count(*) AS num_shown
    FROM v_recommendations
    WHERE date = cast(:date AS DATE)
    GROUP BY item_index
),

items AS (
    SELECT
        coalesce(purchases.item_index, shown.item_index) AS item_index,
        coalesce(purchases.num_purchases, 0) AS num_purchases,
        coalesce(shown.num_shown, 0) AS num_shown
    FROM purchases
    FULL OUTER JOIN shown ON purchases.item_index = shown.item_index
),

tenths AS (
    SELECT
        num_purchases,
        num_shown,
        ntile(10) OVER (ORDER BY num_purchases DESC, item_index ASC) AS tenth
    FROM items
),

sums AS (
    SELECT
        tenth,
        cast(sum(num_purchases) AS DOUBLE) AS num_purchases,
        cast(sum(num_shown) AS DOUBLE) AS num_shown,
        count(*) AS num_items
    FROM tenths
    GROUP BY tenth
),

totals AS (
    SELECT
        nullif(sum(num_purchases), 0) AS num_purchases,
        nullif(sum(num_shown), 0) AS num_shown
    FROM sums
)

SELECT
    cast(sums.tenth AS INT) AS tenth,
    sums.num_items,
    sums.num_purchases / totals.num_purchases AS purchase_share,
    sums.num_shown / totals.num_shown AS recommendation_share,
    (sums.num_shown / totals.num_shown)
    / nullif(sums.num_purchases / totals.num_purchases, 0) AS lift
FROM sums
CROSS JOIN totals
ORDER BY sums.tenth;
