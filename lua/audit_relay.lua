redis.register_function('penstock_audit_relay', function(keys, args) return Call.run('audit_relay', keys, args) end)
