-- What functions log in as that only answer what is there: the same fence as email_service_app, and no privilege to write.
set local lock_timeout = '5s';

-- Its password is set from outside, by `migrate`.
do $$
begin
    if not exists (select from pg_roles where rolname = 'email_service_reader') then
        create role email_service_reader login noinherit nocreatedb nocreaterole;
    end if;
exception when duplicate_object or unique_violation then
    null; -- Another database of this server was migrated at the same moment.
end
$$;
grant usage on schema public to email_service_reader;
alter role email_service_reader set statement_timeout = '4s';
alter role email_service_reader set lock_timeout = '3s';
alter role email_service_reader set idle_in_transaction_session_timeout = '5s';
-- Nothing that a function of the database does may write either, but for those that say `security definer`.
alter role email_service_reader set default_transaction_read_only = on;
grant select on schema_migrations to email_service_reader;

set local role email_service_owner;

-- Not email_credentials: what is shown of an account is beside it.
grant select on
    email_accounts, email_change_numbers, email_destroyed, email_drafts, email_folders, email_labels, email_messages, email_outbox
to email_service_reader;

reset role;
-- As in V5: only who owns the function grants it.
grant email_service_probe to current_user;
grant execute on function account_owner(uuid) to email_service_reader;
revoke email_service_probe from current_user;
