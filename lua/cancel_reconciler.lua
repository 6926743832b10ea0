redis.register_function('penstock_cancel_reconciler', function(keys, args) return Call.run('cancel_reconciler', keys, args) end)
