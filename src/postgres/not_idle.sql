-- Whether the session s is within the idle limit, by this server's clock, strictly.
(:idle_seconds::pg_catalog.float8 IS NULL
     OR s.last_seen_at OPERATOR(pg_catalog.>)
        (pg_catalog.now() OPERATOR(pg_catalog.-)
         pg_catalog.make_interval(secs => :idle_seconds)))
