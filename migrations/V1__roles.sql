-- Who may do what. Roles belong to the whole server, not to one database, so each is created only where
-- it is missing. The login that runs the migrations needs CREATEROLE and the database; it need not be a
-- superuser (managed PostgreSQL gives none).
set local lock_timeout = '5s';

do $$
declare
    wanted constant text[][] := array[
        -- Owns the tables. Nobody logs in as it.
        ['email_service_owner', 'nologin'],
        -- What the functions log in as: owns nothing, creates nothing, cannot bypass row-level security.
        -- Its password is set from outside, by `migrate`.
        ['email_service_app', 'login noinherit nocreatedb nocreaterole'],
        -- Owns the one function that sees past the policies (V2, account_owner).
        ['email_service_probe', 'nologin']
    ];
    role text[];
begin
    foreach role slice 1 in array wanted loop
        begin
            if not exists (select from pg_roles where rolname = role[1]) then
                execute format('create role %I %s', role[1], role[2]);
            end if;
        exception when duplicate_object or unique_violation then
            null; -- Another database of this server was migrated at the same moment.
        end;
    end loop;
    execute format('revoke create, temporary on database %I from public', current_database());
end
$$;

grant email_service_owner to current_user;

revoke create on schema public from public;
grant usage on schema public to email_service_app, email_service_probe;
grant usage, create on schema public to email_service_owner;

-- A statement must end before the function that sent it does (template.yaml: Timeout 10 s), and these
-- belong to the role because a pooled session cannot be trusted to keep a SET.
alter role email_service_app set statement_timeout = '4s';
alter role email_service_app set lock_timeout = '3s';
alter role email_service_app set idle_in_transaction_session_timeout = '5s';

-- Readiness compares the newest row with the version that the functions were built for.
grant select on schema_migrations to email_service_app;
