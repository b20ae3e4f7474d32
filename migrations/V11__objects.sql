-- What the object store keeps of an account is deleted with it.
set local lock_timeout = '5s';
set local role email_service_owner;

create table email_unpurged_objects (
    account_id uuid   primary key,
    tenant_id  uuid   not null,
    user_id    uuid   not null,
    deleted_at bigint not null
);
comment on table email_unpurged_objects is 'Deleted accounts of which the object store may still have something.';
create index email_unpurged_objects_age_idx on email_unpurged_objects (deleted_at);
alter table email_unpurged_objects enable row level security;
alter table email_unpurged_objects force row level security;
create policy email_unpurged_objects_scope on email_unpurged_objects using (
    tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
    and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
) with check (
    tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)
    and user_id = (select nullif(current_setting('app.user_id', true), '')::uuid)
);
grant insert on email_unpurged_objects to email_service_app;
grant select (account_id, tenant_id, deleted_at), delete on email_unpurged_objects to email_service_janitor;
create policy email_unpurged_objects_janitor on email_unpurged_objects to email_service_janitor using (true);

create function note_objects() returns trigger
language plpgsql
as $$
begin
    insert into email_unpurged_objects (account_id, tenant_id, user_id, deleted_at)
    values (new.id, new.tenant_id, new.user_id, epoch_ms());
    return null;
end
$$;
create trigger email_accounts_objects after update on email_accounts for each row
when (old.is_enabled and not new.is_enabled)
execute function note_objects();

-- At most `p_limit` accounts whose objects are to be deleted: of those deleted `p_age` milliseconds ago or earlier, so that
-- no request that began before writes one any more.
create function accounts_with_objects(p_age bigint, p_limit integer) returns table (tenant_id uuid, account_id uuid)
language sql stable security definer rows 100
set search_path = ''
as $$
    select o.tenant_id, o.account_id from public.email_unpurged_objects o
    where o.deleted_at <= (select public.epoch_ms()) - p_age
    order by o.deleted_at
    limit p_limit
$$;

-- Takes note that an account's objects are deleted.
create function forget_objects(p_account_id uuid) returns void
language sql volatile security definer
set search_path = ''
as $$
    delete from public.email_unpurged_objects o where o.account_id = p_account_id
$$;

reset role;
-- As in V2, V5 and V8.
grant email_service_janitor to current_user;
grant create on schema public to email_service_janitor;
alter function accounts_with_objects(bigint, integer) owner to email_service_janitor;
alter function forget_objects(uuid) owner to email_service_janitor;
revoke execute on function accounts_with_objects(bigint, integer), forget_objects(uuid) from public;
grant execute on function accounts_with_objects(bigint, integer), forget_objects(uuid) to email_service_scheduler;
revoke create on schema public from email_service_janitor;
revoke email_service_janitor from current_user;
