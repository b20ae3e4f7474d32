-- The triggers of V7, V11, V12 and V14, for statements that write a column which they look at: the schedule's write none, those of a
-- mailbox's turn what one of them looks at, and had PostgreSQL ask all four of each row. A column that a condition gets is to be named
-- in the list before it as well.
set local lock_timeout = '5s';
set local role email_service_owner;

drop trigger email_accounts_update on email_accounts;
create trigger email_accounts_update before update of
    account_name, email_address, protocol, hostname, port, encryption, username, is_sync_enabled, sync_interval, is_enabled,
    smtp_hostname, smtp_port, smtp_encryption, smtp_username, auth_type, provider, state, last_error_code, last_error_message,
    last_error_service
on email_accounts for each row
when (
    (
        old.account_name, old.email_address, old.protocol, old.hostname, old.port, old.encryption, old.username,
        old.is_sync_enabled, old.sync_interval, old.is_enabled, old.smtp_hostname, old.smtp_port, old.smtp_encryption,
        old.smtp_username, old.auth_type, old.provider, old.state, old.last_error_code, old.last_error_message,
        old.last_error_service
    ) is distinct from (
        new.account_name, new.email_address, new.protocol, new.hostname, new.port, new.encryption, new.username,
        new.is_sync_enabled, new.sync_interval, new.is_enabled, new.smtp_hostname, new.smtp_port, new.smtp_encryption,
        new.smtp_username, new.auth_type, new.provider, new.state, new.last_error_code, new.last_error_message,
        new.last_error_service
    )
)
execute function number_account();

drop trigger email_accounts_lease on email_accounts;
create trigger email_accounts_lease before update of settings_version, is_enabled on email_accounts for each row
when (new.settings_version <> old.settings_version or old.is_enabled and not new.is_enabled)
execute function take_lease_back();

drop trigger email_accounts_objects on email_accounts;
create trigger email_accounts_objects after update of is_enabled on email_accounts for each row
when (old.is_enabled and not new.is_enabled)
execute function note_objects();

drop trigger email_accounts_hidden on email_accounts;
create trigger email_accounts_hidden after update of synced_with, is_enabled on email_accounts for each row
when (old.synced_with <> new.synced_with or old.is_enabled and not new.is_enabled)
execute function forget_hidden();

reset role;
