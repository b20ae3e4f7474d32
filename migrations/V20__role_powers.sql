-- What a login could do, as in V17, to each table that has a tenant. A new table gets its place here; a test counts them.
set local lock_timeout = '5s';
set local role email_service_owner;

-- `is_bound`: row-level security holds this role. One that bypasses the policies, or that owns the tables and could drop them,
-- would make it a decoration. So would one that can become such a role: membership is enough, inherited or not. A policy that
-- names its roles is for those that see past the others, such as the owner of account_owner. TRUNCATE is an owner's
-- privilege, and knows no policies. `reads_secrets`: it may read sealed ones.
create or replace function role_powers() returns table (role text, is_bound boolean, reads_secrets boolean)
language plpgsql stable rows 1
as $$
declare
    c_tables constant oid[] := array[
        'email_accounts'::regclass, 'email_change_numbers'::regclass, 'email_credentials'::regclass, 'email_destroyed'::regclass,
        'email_drafts'::regclass, 'email_folders'::regclass, 'email_hidden'::regclass, 'email_idempotency_keys'::regclass,
        'email_labels'::regclass, 'email_messages'::regclass, 'email_outbox'::regclass, 'email_unpurged_objects'::regclass,
        'email_uploads'::regclass, 'oauth2_authorizations'::regclass
    ];
begin
    role := current_user;
    is_bound := not pg_has_role('email_service_owner', 'member')
        and (
            select bool_and(row_security_active(t) and not has_table_privilege(t, 'truncate')) from unnest(c_tables) as t
        )
        and not exists (
            select from pg_roles r where (r.rolsuper or r.rolbypassrls) and pg_has_role(r.oid, 'member')
        )
        and not exists (
            select from pg_policy p, unnest(p.polroles) as named
            where p.polrelid = any (c_tables) and named <> 0 and pg_has_role(named, 'member')
        );
    reads_secrets := exists (
        select from pg_attribute a
        where a.attrelid = 'email_credentials'::regclass
            and a.attname in ('sealed_password', 'sealed_smtp_password', 'sealed_refresh_token', 'sealed_access_token')
            and has_column_privilege(a.attrelid, a.attnum, 'select')
    );
    return next;
end
$$;

reset role;
