-- The key of the user as the users table spells it. Equal keys can have several spellings.
SELECT k.key::pg_catalog.text
FROM (SELECT :key FROM :from WHERE :key :equals :user_id LIMIT 1) AS k (key)
