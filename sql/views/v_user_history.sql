-- grain: one row per (date, user, position); position 1 is the oldest event of the window
-- reads: histories, catalog
-- params: none
-- An item_index is never reassigned, so the latest catalog has the title of every item.
CREATE OR REPLACE VIEW v_user_history AS
WITH latest_catalog AS (
    SELECT
        catalog.item_index,
        catalog.item_id,
        catalog.title,
        catalog.store,
        catalog.category
    FROM catalog
    WHERE catalog.version = (SELECT max(every.version) FROM catalog AS every)
),

positions AS (
    SELECT
        date,
        user_id,
        history_item_index,
        history_rating,
        history_time,
        explode(sequence(1, array_size(history_item_index))) AS position
    FROM histories
    WHERE array_size(history_item_index) > 0
),

events AS (
    SELECT
        date,
        user_id,
        position,
        try_element_at(history_item_index, cast(position AS INT)) AS item_index,
        try_element_at(history_rating, cast(position AS INT)) AS rating,
        try_element_at(history_time, cast(position AS INT)) AS event_time
    FROM positions
)

SELECT
    events.date,
    events.user_id,
    events.position,
    events.item_index,
    latest_catalog.item_id,
    latest_catalog.title,
    latest_catalog.store,
    latest_catalog.category,
    events.rating,
    events.event_time
FROM events
LEFT JOIN latest_catalog ON events.item_index = latest_catalog.item_index;
