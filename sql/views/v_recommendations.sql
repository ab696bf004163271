-- grain: one row per (date, user, rank) of the published runs
-- reads: recommendations, runs, catalog, reasoning
-- params: none
CREATE OR REPLACE VIEW v_recommendations AS
SELECT
    recommendations.date,
    recommendations.user_id,
    recommendations.rank,
    recommendations.item_id,
    recommendations.item_index,
    recommendations.score,
    catalog.title,
    catalog.store,
    catalog.category,
    catalog.price,
    reasoning.reasoning,
    reasoning.finish_reason,
    reasoning.reasoning_tokens,
    reasoning.status,
    runs.run_id,
    runs.model,
    runs.catalog_version
FROM recommendations
INNER JOIN runs
    ON
        recommendations.date = runs.date
        AND recommendations.run_id = runs.run_id
LEFT JOIN reasoning
    ON
        recommendations.date = reasoning.date
        AND recommendations.run_id = reasoning.run_id
        AND recommendations.user_id = reasoning.user_id
LEFT JOIN catalog
    ON
        recommendations.item_index = catalog.item_index
        AND cast(runs.catalog_version AS DATE) = catalog.version;
