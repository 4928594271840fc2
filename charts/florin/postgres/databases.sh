# A database, its owner, its runtime role and the role that the checker reads as, for each service, as docs/production.md has them; run once, by the image,
# when the data folder is made. Passwords are files of /etc/florin/passwords: ROLE.
for service in accounts transactions compliance notifications; do
  export service
  psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 -v service="$service" --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
SET log_min_error_statement = panic;
\set owner :service _owner
\set runtime :service _runtime
\set checker :service _checker
\set owner_password `cat "/etc/florin/passwords/${service}_owner"`
\set runtime_password `cat "/etc/florin/passwords/${service}_runtime"`
\set checker_password `cat "/etc/florin/passwords/${service}_checker"`
CREATE ROLE :"owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'owner_password';
CREATE ROLE :"runtime" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'runtime_password';
CREATE ROLE :"checker" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS PASSWORD :'checker_password';
CREATE DATABASE :"service" OWNER :"owner" TEMPLATE template0 ENCODING 'UTF8';
REVOKE ALL ON DATABASE :"service" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"service" TO :"runtime", :"checker";
SQL
done
psql --no-psqlrc --quiet -v ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres \
  -c 'REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC'
