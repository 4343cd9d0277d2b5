-- Sets session columns of a live session. An ended session has no row, and an expired one is not
-- changed. The assignment of last_seen_at changes nothing: SET needs one.
-- Returns no row if there is no such session. If a trigger suppressed the update, the last column
-- raises the error of none_left.sql.
WITH found AS MATERIALIZED (
    SELECT s.id
    FROM :sessions AS s
    WHERE s.id OPERATOR(pg_catalog.=) :only::pg_catalog.uuid
      AND :live
      AND :user_allowed
    FOR UPDATE
), updated AS (
    UPDATE :sessions AS s
    SET last_seen_at = s.last_seen_at
        :assignments
    WHERE s.id OPERATOR(pg_catalog.=) (SELECT found.id FROM found)
    RETURNING s.id
)
SELECT updated.id,
       pg_catalog.width_bucket(0::pg_catalog.float8, 0, 1, CASE WHEN updated.id IS NULL THEN 0 ELSE 1 END)
FROM found
LEFT JOIN updated ON true
