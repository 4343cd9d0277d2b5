-- Records the last use of sessions. Each session is updated at most once per interval, no matter
-- how many processes try. The statement updates only live sessions. It skips rows that another
-- transaction has locked.
WITH used AS (
    SELECT s.id, u.used_at
    FROM ROWS FROM (
        pg_catalog.unnest(:ids::pg_catalog.uuid[]),
        pg_catalog.unnest(:times::pg_catalog.timestamptz[])
    ) AS u (id, used_at)
    JOIN :sessions AS s ON s.id OPERATOR(pg_catalog.=) u.id
    WHERE u.used_at OPERATOR(pg_catalog.>=)
          (s.last_seen_at OPERATOR(pg_catalog.+)
           pg_catalog.make_interval(secs => :interval_seconds))
      AND :live
    FOR UPDATE OF s SKIP LOCKED
)
UPDATE :sessions AS s
SET last_seen_at = used.used_at
FROM used
WHERE s.id OPERATOR(pg_catalog.=) used.id
