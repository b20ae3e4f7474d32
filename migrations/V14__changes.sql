-- What a reader asks for beside lists: what has changed since.
set local lock_timeout = '5s';
set local role email_service_owner;

-- What a user's things have become since `p_since`, in the order of their numbers, `p_limit` of them at most: each thing
-- once, with its last change. `created` is what got its first number after `p_known`. The first row has `last`, the number
-- of the user's last change, and `forgotten`; where there is nothing to tell, that is all it has. So it is where `p_since`
-- is null, below `forgotten`, or a number that was never given.
--
-- One statement, so one snapshot: whoever gave a number had committed before the next one was given, so that up to `last`
-- nothing is missing. Each kind of thing is read by its index no further than the page, and nothing is sorted.
create function list_changes(p_tenant_id uuid, p_user_id uuid, p_since bigint, p_known bigint, p_limit bigint)
returns table (last bigint, forgotten bigint, number bigint, type text, id uuid, account_id uuid, change text)
language plpgsql rows 50
set enable_sort = off
set enable_incremental_sort = off
set enable_bitmapscan = off
set enable_seqscan = off
set jit = off
as $$
begin
    perform set_config('app.tenant_id', p_tenant_id::text, true), set_config('app.user_id', p_user_id::text, true);
    return query
        with counter as materialized (
            select coalesce(max(c.last), 0) as last, coalesce(max(c.forgotten), 0) as forgotten
            from email_change_numbers c
            where c.tenant_id = p_tenant_id and c.user_id = p_user_id
        )
        select counter.last, counter.forgotten, found.number, found.type, found.id, found.account_id,
            case when found.created_number is null then 'destroyed' when found.created_number > p_known then 'created'
                else 'updated' end
        from counter
        left join lateral (
            -- Another type of things is another branch here, in its own order, with an index on user_id, changed_number.
            (
                select a.changed_number as number, 'account' as type, a.id, a.id as account_id, a.created_number
                from email_accounts a
                where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.changed_number > p_since and a.is_enabled
                order by a.changed_number
                limit p_limit
            )
            union all
            (
                select f.changed_number, 'folder', f.id, f.account_id, f.created_number
                from email_folders f
                where f.tenant_id = p_tenant_id and f.user_id = p_user_id and f.changed_number > p_since
                    and f.account_id = any (array(
                        select a.id from email_accounts a
                        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                    ))
                order by f.changed_number
                limit p_limit
            )
            union all
            (
                select m.changed_number, 'message', m.id, m.account_id, m.created_number
                from email_messages m
                where m.tenant_id = p_tenant_id and m.user_id = p_user_id and m.changed_number > p_since
                    -- Mail of a deleted account is here until it is purged.
                    and m.account_id = any (array(
                        select a.id from email_accounts a
                        where a.tenant_id = p_tenant_id and a.user_id = p_user_id and a.is_enabled
                    ))
                order by m.changed_number
                limit p_limit
            )
            union all
            (
                select d.number, d.type, d.id, d.account_id, null
                from email_destroyed d
                where d.tenant_id = p_tenant_id and d.user_id = p_user_id and d.number > p_since
                order by d.number
                limit p_limit
            )
            order by number
            limit p_limit
        ) found on p_since between counter.forgotten and counter.last
        order by found.number;
end
$$;

-- Whoever changes what a list shows of a message, and does not number it, has it numbered here. Those who change many at
-- once take their numbers at once.
create function number_message() returns trigger
language plpgsql
as $$
begin
    new.changed_number := next_numbers(new.tenant_id, new.user_id, 1);
    return new;
end
$$;
create trigger email_messages_update before update on email_messages for each row
when (
    new.changed_number = old.changed_number
    and (
        old.folder_id, old.thread_id, old.received_at, old.sent_at, old.size, old.is_read, old.is_flagged, old.is_answered,
        old.is_draft, old.has_attachments, old.subject, old.from_list, old.to_list, old.cc_list, old.bcc_list,
        old.reply_to_list, old.message_id, old.in_reply_to, old.preview
    ) is distinct from (
        new.folder_id, new.thread_id, new.received_at, new.sent_at, new.size, new.is_read, new.is_flagged, new.is_answered,
        new.is_draft, new.has_attachments, new.subject, new.from_list, new.to_list, new.cc_list, new.bcc_list,
        new.reply_to_list, new.message_id, new.in_reply_to, new.preview
    )
)
execute function number_message();

-- As V7 has it, and the service that an error is of.
create or replace trigger email_accounts_update before update on email_accounts for each row
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

reset role;
