-- Returns one row that describes a type. For a domain, the row describes its base type.
WITH RECURSIVE made_of (oid) AS (
    SELECT :type_oid::pg_catalog.oid
    UNION ALL
    SELECT t.typbasetype
    FROM made_of
    JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) made_of.oid
    WHERE t.typtype OPERATOR(pg_catalog.=) 'd'::pg_catalog."char"
)
SELECT t.oid,
       t.typname::pg_catalog.text,
       n.nspname::pg_catalog.text,
       t.typtype OPERATOR(pg_catalog.=) 'b'::pg_catalog."char"
       AND t.typelem OPERATOR(pg_catalog.=) 0::pg_catalog.oid
FROM made_of
JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) made_of.oid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
WHERE t.typtype OPERATOR(pg_catalog.<>) 'd'::pg_catalog."char"
